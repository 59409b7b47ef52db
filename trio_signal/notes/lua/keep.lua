-- Keep a value of a kind with a key for each entry.
--
-- KEYS  1 value  string
--       2 order  3 sizes  (see account.lua)
-- ARGV  1 entry  2 value  3 its bytes, with overhead  4 most bytes of all
--       5 seconds  6 prefix of the kind's keys

local seconds = tonumber(ARGV[5])
redis.call('SET', KEYS[1], ARGV[2], 'EX', seconds)
count(KEYS[2], KEYS[3], ARGV[1], ARGV[3], tonumber(ARGV[4]), seconds,
  function(entry) redis.call('DEL', ARGV[6] .. entry) end)
