-- So many connections of a replica subscribe to topics.
--
-- KEYS  the subscribers of each topic: by replica, how many
-- ARGV  1 replica  2 milliseconds for which this is kept, if nobody says it again
--       then of each topic how many there are; with none, the replica is taken out

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
