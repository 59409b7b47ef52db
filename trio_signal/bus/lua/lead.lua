-- Elect the replica that sends webhooks, or renew its term.
--
-- KEYS  1 the leader: string
-- ARGV  1 replica  2 term in ms
--
-- Returns 1 if this replica leads.

expect(KEYS[1], 'string')
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
