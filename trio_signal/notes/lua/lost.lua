-- Keep the rooms of a lost connection, beside those of the user's others.
--
-- KEYS  1 lost  set: room ids of the user
--       2 order  3 sizes  of users  (see account.lua)
-- ARGV  1 user id  2 how many bytes of a user  3 of all  4 seconds
--       5 bytes of a user besides its rooms  6 prefix of the keys of users' rooms
--       then, for each room: its id, its bytes

local seconds = tonumber(ARGV[4])
expect(KEYS[1], 'set')
expect(KEYS[3], 'hash')
local base = tonumber(ARGV[5])
local size = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  size = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or base) - base
end
for i = 7, #ARGV, 2 do
  local more = tonumber(ARGV[i + 1])
  if size + more <= tonumber(ARGV[2]) and redis.call('SADD', KEYS[1], ARGV[i]) == 1 then
    size = size + more
  end
end
redis.call('EXPIRE', KEYS[1], seconds)
count(KEYS[2], KEYS[3], ARGV[1], string.format('%d', size + base), tonumber(ARGV[3]), seconds,
  function(user) redis.call('DEL', ARGV[6] .. user) end)
