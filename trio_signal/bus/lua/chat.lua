-- Keep a chat message, and forget the oldest ones of the room that are too many.
--
-- KEYS  1 chats       list: messages (JSON), the oldest first
--       2 chat_bytes  string: how many bytes these are
-- ARGV  1 message (JSON)  2 how many are kept  3 how many bytes are
--       4 seconds for which they are
--
-- Returns how many there are.

local count = redis.call('RPUSH', KEYS[1], ARGV[1])
if count == 1 then
  redis.call('DEL', KEYS[2])
end
local bytes = redis.call('INCRBY', KEYS[2], #ARGV[1])
while count > 0 and (count > tonumber(ARGV[2]) or bytes > tonumber(ARGV[3])) do
  bytes = redis.call('DECRBY', KEYS[2], #redis.call('LPOP', KEYS[1]))
  count = count - 1
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return count
