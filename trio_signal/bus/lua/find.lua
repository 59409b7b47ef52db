-- Find who has a name.
--
-- KEYS  1 the name: who has it  2 replicas that wait for it  3 replicas
-- ARGV  1 replica  2 a claim that is known to be over  3 milliseconds
--
-- Returns {replica, claim}; or {} if nobody has it: then the replica waits for it, so long.

expect(KEYS[1], 'hash')
local held = redis.call('HMGET', KEYS[1], 'replica', 'claim')
if held[1] and held[2] and held[2] ~= ARGV[2] and redis.call('ZSCORE', KEYS[3], held[1]) then
  return held
end
expect(KEYS[2], 'set')
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {}
