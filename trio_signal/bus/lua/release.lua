-- Release a name, if this claim still holds it. Nobody may hold it any more, as names expire.
--
-- KEYS  1 holder of the name  2 names of the replica
-- ARGV  1 claim  2 milliseconds for which it is reserved for its subject, or 0  3 the name

expect(KEYS[1], 'hash')
expect(KEYS[2], 'set')
local claim = redis.call('HGET', KEYS[1], 'claim')
if claim == ARGV[1] or not claim then
  redis.call('SREM', KEYS[2], ARGV[3])
end
if claim == ARGV[1] then
  if ARGV[2] == '0' then
    redis.call('DEL', KEYS[1])
  else
    redis.call('HDEL', KEYS[1], 'replica', 'claim')
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
return 1
