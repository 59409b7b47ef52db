-- Take the rooms of a user's lost connections: the first caller gets them.
--
-- KEYS  1 lost  2 order  3 sizes  (see lost.lua)
-- ARGV  1 user id  2 how many at most
--
-- Returns their ids.

expect(KEYS[1], 'set')
expect(KEYS[2], 'zset')
expect(KEYS[3], 'hash')
local rooms = redis.call('SPOP', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[1])
uncount(KEYS[2], KEYS[3], ARGV[1])
return rooms
