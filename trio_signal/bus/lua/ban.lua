-- Ban an identity from a room for a while, in every dialect.
--
-- KEYS  1 banned  sorted set: digest of the identity -> until when, in ms; of the room
-- ARGV  1 digest of the identity  2 milliseconds  3 the most bans of one room
--
-- Beyond the bound, the ban that would end first is dropped. A longer ban stays. Returns the end of
-- the ban.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local digest = ARGV[1]
local ends = math.max(now + tonumber(ARGV[2]), tonumber(redis.call('ZSCORE', KEYS[1], digest) or 0))
redis.call('ZADD', KEYS[1], string.format('%d', ends), digest)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[3]))
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then
  redis.call('PEXPIREAT', KEYS[1], string.format('%d', tonumber(last[2])))
end
return string.format('%d', ends)
