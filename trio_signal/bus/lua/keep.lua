-- Write the names of a replica again, before they expire or after they were deleted.
--
-- KEYS  1 replicas  2 names of the replica  then for each name: its holder
-- ARGV  1 replica  2 milliseconds until they expire
--       then for each name: the name, its claim, a digest of its subject
--
-- Returns {replica, claim} for each name that somebody else holds by now, else {}.

expect(KEYS[2], 'set')
local lost = {}
for i = 3, #KEYS do
  local at = 3 * (i - 3) + 3
  expect(KEYS[i], 'hash')
  local held = redis.call('HMGET', KEYS[i], 'replica', 'claim')
  local is_other = held[1] and held[2] and held[2] ~= ARGV[at + 1]
  if is_other and held[1] ~= ARGV[1] and redis.call('ZSCORE', KEYS[1], held[1]) then
    lost[#lost + 1] = held
  else
    redis.call('HSET', KEYS[i], 'replica', ARGV[1], 'claim', ARGV[at + 1], 'subject', ARGV[at + 2])
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    redis.call('SADD', KEYS[2], ARGV[at])
    lost[#lost + 1] = {}
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return lost
