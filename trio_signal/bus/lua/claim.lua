-- Claim a name for a session of a replica.
--
-- KEYS  1 holder of the name  2 replicas that wait for it  3 replicas  4 names of the replica
-- ARGV  1 replica  2 claim  3 digest of the subject  4 milliseconds until it expires
--       5 the name  6 prefix of the replicas' channels  7 prefix of the keys of their names
--       8 message to the last holder and to those who wait
--
-- A held name has `replica` and `claim`; a reserved one has only `subject`. A holder whose replica
-- has no lease does not count. Returns 'ok', 'in_use', or 'lease' if the replica has no lease.

if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  return 'lease'
end
expect(KEYS[1], 'hash')
expect(KEYS[2], 'set')
expect(KEYS[4], 'set')
local held = redis.call('HMGET', KEYS[1], 'replica', 'subject')
local is_here = not held[1] or redis.call('ZSCORE', KEYS[3], held[1])
if held[2] and held[2] ~= ARGV[3] and is_here then
  return 'in_use'
end
redis.call('HSET', KEYS[1], 'replica', ARGV[1], 'claim', ARGV[2], 'subject', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[4], ARGV[5])
redis.call('PEXPIRE', KEYS[4], ARGV[4])
local told = redis.call('SRANDMEMBER', KEYS[2], 1000)
redis.call('DEL', KEYS[2])
if held[1] then
  told[#told + 1] = held[1]
  if held[1] ~= ARGV[1] then
    expect(ARGV[7] .. held[1], 'set')
    redis.call('SREM', ARGV[7] .. held[1], ARGV[5])
  end
end
for _, replica in ipairs(told) do
  if replica ~= ARGV[1] then
    redis.call('PUBLISH', ARGV[6] .. replica, ARGV[8])
  end
end
return 'ok'
