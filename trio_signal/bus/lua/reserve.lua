-- Prelude of the scripts that remove members: reserves a peer id for its subject.
--
-- Each room has, besides its other keys (see join.lua):
--   reserved        hash: peer id -> digest of its subject
--   reserved_until  sorted set: peer id -> end of the reservation, in ms
--
-- Only a verified identity can reserve: others cannot prove that they are the same.

local RESERVED_SECONDS = 60
local MOST_RESERVED = 1000

local function reserve(room, id, member)
  if not member.reserved then
    return
  end
  local owners, ends = room .. ':reserved', room .. ':reserved_until'
  expect(owners, 'hash')
  expect(ends, 'zset')
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  for _, over in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%d', now))) do
    redis.call('HDEL', owners, over)
    redis.call('ZREM', ends, over)
  end
  redis.call('HSET', owners, id, redis.sha1hex(member.subject))
  redis.call('ZADD', ends, string.format('%d', now + RESERVED_SECONDS * 1000), id)
  while redis.call('ZCARD', ends) > MOST_RESERVED do
    local oldest = redis.call('ZRANGE', ends, 0, 0)[1]
    redis.call('HDEL', owners, oldest)
    redis.call('ZREM', ends, oldest)
  end
  redis.call('EXPIRE', owners, RESERVED_SECONDS)
  redis.call('EXPIRE', ends, RESERVED_SECONDS)
end

