-- Claim a name for a session of a replica.
--
-- KEYS  1 the name: who has it  2 replicas that wait for it  3 replicas  4 names of the replica
-- ARGV  1 replica  2 claim  3 digest of the subject  4 milliseconds for which this is kept
--       5 the name  6 begin of the replicas' channels  7 begin of the keys of their names
--       8 what those are told who had it or wait for it
--
-- Of who has a name there are `replica` and `claim`, and the `subject` only while it is held for
-- who had it. One whose replica has no lease has it no longer.
-- Returns 'ok', 'in_use', or 'lease' if the replica has no lease.

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
