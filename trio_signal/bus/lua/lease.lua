-- Renew a replica's lease, or take a new one.
--
-- KEYS  1 replicas  sorted set: replica -> when its lease runs out, in ms
--       2 owned     set: rooms in which the replica has members
-- ARGV  1 replica  2 lease in ms  3 "1" to take a new one if there is none
--
-- `owned` expires long after the lease. Nobody reaps a replica that dies after its lease was deleted.
--
-- A lease longer than a day was not written by a replica: it is removed. Returns {1 if this replica
-- has a lease, the replicas whose leases ran out, 100 at most, the time in ms}. All times are
-- Redis's: the replicas' clocks may differ.

local OWNED = 3600000

expect(KEYS[1], 'zset')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local longest = now + math.max(86400000, tonumber(ARGV[2]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', longest), '+inf')
local held = redis.call('ZSCORE', KEYS[1], ARGV[1]) or ARGV[3] == '1'
if held then
  redis.call('ZADD', KEYS[1], string.format('%d', now + tonumber(ARGV[2])), ARGV[1])
  redis.call('PEXPIRE', KEYS[2], string.format('%d', math.max(OWNED, 10 * tonumber(ARGV[2]))))
end
return {held and 1 or 0, redis.call(
  'ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%d', now), 'LIMIT', 0, 100), now}
