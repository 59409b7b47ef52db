-- Before the scripts by which members leave: what keeps a peer id for its subject.
--
-- Of a room, besides its other keys (see join.lua):
--   reserved        hash: peer id -> digest of the subject that may have it
--   reserved_until  sorted set: peer id -> until when, in ms
--
-- Only an identity that is verified reserves anything: others cannot prove to be the same.

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

