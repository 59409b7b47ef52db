-- Set how many connections of a replica subscribe to some topics.
--
-- KEYS  the subscribers of each topic: by replica, how many
-- ARGV  1 replica  2 milliseconds until the counts expire
--       then the count of each topic; 0 removes the replica

for i, key in ipairs(KEYS) do
  expect(key, 'hash')
  if ARGV[i + 2] == '0' then
    redis.call('HDEL', key, ARGV[1])
  else
    redis.call('HSET', key, ARGV[1], ARGV[i + 2])
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
return 1
