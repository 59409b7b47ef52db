-- What the scripts of notes have in common; it stands before each of them.
--
-- Of each kind the bytes are counted, so that the oldest can be forgotten without a
-- search. What a replica of another version writes is not counted; it expires.
--
-- order  sorted set: entry -> when it was kept, in microseconds
-- sizes  hash: entry -> its bytes; and under '' those of all

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Somebody else may have written anything there.
local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

-- Add to what all entries take.
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

-- Count an entry as the newest. `delete` deletes one: those that are over, a hundred at
-- most, and the oldest that are more bytes than `limit`.
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

