-- Publish on a topic, with the number of its subscribers on all replicas.
--
-- KEYS  1 subscribers of the topic: by replica, how many  2 replicas
-- ARGV  1 replica  2 number of its subscribers  3 channel
--       4 the message up to the number  5 the rest of the message
--
-- Returns that number.

expect(KEYS[1], 'hash')
local subscribers = tonumber(ARGV[2])
local counts = redis.call('HGETALL', KEYS[1])
for i = 1, #counts, 2 do
  if counts[i] ~= ARGV[1] then
    if redis.call('ZSCORE', KEYS[2], counts[i]) then
      local count = tonumber(counts[i + 1])
      if count and count > 0 and count < 1000000 then
        subscribers = subscribers + math.floor(count)
      end
    else
      redis.call('HDEL', KEYS[1], counts[i])
    end
  end
end
redis.call('PUBLISH', ARGV[3], ARGV[4] .. string.format('%d', subscribers) .. ARGV[5])
return subscribers
