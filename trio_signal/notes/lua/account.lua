-- Prelude of all scripts of notes.
--
-- The bytes of each kind are counted, so that the oldest entries can be forgotten without a search.
-- Notes of replicas of other versions are not counted; they expire.
--
-- order  sorted set: entry -> when it was kept, in microseconds
-- sizes  hash: entry -> its bytes; and under '' the total

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Delete a key of another type, which somebody else has written.
local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

-- Add to the total.
local function add(sizes, bytes)
  if type(redis.pcall('HINCRBY', sizes, '', bytes)) ~= 'number' then
    redis.call('DEL', sizes)
  end
end

local function uncount(order, sizes, entry)
  redis.call('ZREM', order, entry)
  local size = tonumber(redis.call('HGET', sizes, entry) or '')
  redis.call('HDEL', sizes, entry)
  if size then
    add(sizes, -size)
  end
end

-- Count an entry as the newest. `delete` deletes an entry: expired ones, a hundred at most, and the
-- oldest beyond `limit` bytes.
local function count(order, sizes, entry, size, limit, seconds, delete)
  expect(order, 'zset')
  expect(sizes, 'hash')
  uncount(order, sizes, entry)
  redis.call('ZADD', order, string.format('%d', now()), entry)
  redis.call('HSET', sizes, entry, size)
  add(sizes, size)
  local over = string.format('%d', now() - seconds * 1000000)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', over, 'LIMIT', 0, 100)) do
    delete(old)
    uncount(order, sizes, old)
  end
  while tonumber(redis.call('HGET', sizes, '') or 0) > limit do
    local oldest = redis.call('ZRANGE', order, 0, 0)[1]
    if not oldest then
      redis.call('DEL', sizes)
      break
    end
    delete(oldest)
    uncount(order, sizes, oldest)
  end
  redis.call('EXPIRE', order, seconds)
  redis.call('EXPIRE', sizes, seconds)
end

