-- Keep what a user is called in a room, and forget the oldest of all rooms that are too many.
--
-- KEYS  1 profiles       hash: user id -> profile (JSON); of the room
--       2 profile_order  sorted set: [room id, user id] (JSON) -> when that was kept
-- ARGV  1 room id  2 user id  3 profile (JSON)  4 how many are kept
--       5 seconds for which they are  6 prefix of the keys of rooms' profiles
--
-- Returns how many there are; some of these may have expired with their room's.

local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], time[1] .. string.format('%06d', time[2]),
  cjson.encode({ARGV[1], ARGV[2]}))
local count = redis.call('ZCARD', KEYS[2])
while count > tonumber(ARGV[4]) do
  local oldest = cjson.decode(redis.call('ZPOPMIN', KEYS[2])[1])
  redis.call('HDEL', ARGV[6] .. oldest[1], oldest[2])
  count = count - 1
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return count
