-- Keep that a user left a room on purpose, so that a lost connection does not rejoin it.
--
-- KEYS  1 left  hash: room id -> when, in seconds since 1970; of the user
--       2 order  3 sizes  of users  (see account.lua)
--       4 lost  (see lost.lua): the room is forgotten there
-- ARGV  1 user id  2 room id  3 when  4 bytes of the room  5 most bytes of a user  6 of all
--       7 seconds  8 bytes of a user besides its rooms  9 prefix of the keys of users' rooms

expect(KEYS[1], 'hash')
expect(KEYS[3], 'hash')
expect(KEYS[4], 'set')
redis.call('SREM', KEYS[4], ARGV[2])
local base = tonumber(ARGV[8])
local size = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  size = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or base) - base
end
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then
  size = size + tonumber(ARGV[4])
  if size > tonumber(ARGV[5]) then -- only the newest matters
    redis.call('DEL', KEYS[1])
    size = tonumber(ARGV[4])
  end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[7])
count(KEYS[2], KEYS[3], ARGV[1], string.format('%d', size + base), tonumber(ARGV[6]),
  tonumber(ARGV[7]), function(user) redis.call('DEL', ARGV[9] .. user) end)
