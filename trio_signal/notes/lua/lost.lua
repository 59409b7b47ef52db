-- Keep the rooms of a lost connection, in addition to those of the user's others.
--
-- KEYS  1 lost  set: room ids of the user
--       2 order  3 sizes  of users  (see account.lua)
--       4 left  rooms that the user left on purpose, and when  (see left.lua)
-- ARGV  1 user id  2 most bytes of a user  3 of all  4 seconds
--       5 bytes of a user besides its rooms  6 prefix of the keys of users' rooms
--       7 when the connection was last heard from, in seconds since 1970: rooms that were
--         left after that are not kept
--       then, for each room: its id, its bytes

local seconds = tonumber(ARGV[4])
expect(KEYS[1], 'set')
expect(KEYS[3], 'hash')
local base = tonumber(ARGV[5])
local size = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  size = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or base) - base
end
expect(KEYS[4], 'hash')
local heard = tonumber(ARGV[7])
local function was_left(room)
  return (tonumber(redis.call('HGET', KEYS[4], room) or '') or -1) > heard
end
for i = 8, #ARGV, 2 do
  local more = tonumber(ARGV[i + 1])
  if not was_left(ARGV[i]) and size + more <= tonumber(ARGV[2]) and redis.call('SADD', KEYS[1], ARGV[i]) == 1 then
    size = size + more
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return
end
redis.call('EXPIRE', KEYS[1], seconds)
count(KEYS[2], KEYS[3], ARGV[1], string.format('%d', size + base), tonumber(ARGV[3]), seconds,
  function(user) redis.call('DEL', ARGV[6] .. user) end)
