-- Find the holder of a name.
--
-- KEYS  1 holder of the name  2 replicas that wait for it  3 replicas
-- ARGV  1 replica  2 a claim that has ended  3 milliseconds
--
-- Returns {replica, claim}; or {} if the name has no holder: then the replica waits for so long.

expect(KEYS[1], 'hash')
local held = redis.call('HMGET', KEYS[1], 'replica', 'claim')
if held[1] and held[2] and held[2] ~= ARGV[2] and redis.call('ZSCORE', KEYS[3], held[1]) then
  return held
end
expect(KEYS[2], 'set')
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {}
