-- Let a replica be the one that sends webhooks, if it is so already or nobody is.
--
-- KEYS  1 who it is: string
-- ARGV  1 replica  2 for how many ms
--
-- Returns 1 if it is this one.

expect(KEYS[1], 'string')
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
