-- Keep a chat message, and forget the room's oldest ones beyond the bounds.
--
-- KEYS  1 chats       list: messages (JSON), the oldest first
--       2 chat_bytes  string: their size in bytes
--       3 order  4 sizes  of rooms  (see account.lua)
-- ARGV  1 room id  2 message (JSON)  3 most messages  4 most bytes of a room
--       5 most bytes of all rooms  6 seconds  7 bytes of a room besides its messages
--       8 prefix of the keys of rooms' chats  9 prefix of the keys of their sizes

local seconds = tonumber(ARGV[6])
expect(KEYS[1], 'list')
expect(KEYS[2], 'string')
local messages = redis.call('RPUSH', KEYS[1], ARGV[2])
if messages == 1 then
  redis.call('DEL', KEYS[2])
end
local bytes = tonumber(redis.call('GET', KEYS[2]) or 0) or 0
bytes = bytes + #ARGV[2]
while messages > 0 and (messages > tonumber(ARGV[3]) or bytes > tonumber(ARGV[4])) do
  bytes = bytes - #redis.call('LPOP', KEYS[1])
  messages = messages - 1
end
redis.call('SET', KEYS[2], string.format('%d', bytes), 'EX', seconds)
redis.call('EXPIRE', KEYS[1], seconds)
count(KEYS[3], KEYS[4], ARGV[1], string.format('%d', bytes + ARGV[7]), tonumber(ARGV[5]), seconds,
  function(room) redis.call('DEL', ARGV[8] .. room, ARGV[9] .. room) end)
