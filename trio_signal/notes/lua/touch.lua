-- Renew entries of a kind with a key for each entry; missing ones stay missing.
--
-- KEYS  1 order  2 sizes  (see account.lua); then, for each entry: its value
-- ARGV  1 seconds; then, for each: the entry

local seconds = tonumber(ARGV[1])
expect(KEYS[1], 'zset')
for i = 3, #KEYS do
  if redis.call('EXPIRE', KEYS[i], seconds) == 1 then
    redis.call('ZADD', KEYS[1], 'XX', string.format('%d', now()), ARGV[i - 1])
  end
end
redis.call('EXPIRE', KEYS[1], seconds)
redis.call('EXPIRE', KEYS[2], seconds)
