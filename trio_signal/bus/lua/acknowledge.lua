-- Record that users have acknowledged an announcement, and publish how many have.
--
-- KEYS  1 count  string: how many have; then, for each user, broadcast:{id}:ack:{user_id}
-- ARGV  1 id of the announcement  2 seconds to keep the acknowledgements  3 channel
--
-- A user who has acknowledged before is not counted again.

expect(KEYS[1], 'string')
if not string.match(redis.call('GET', KEYS[1]) or '0', '^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then
  redis.call('DEL', KEYS[1])
end

local news = 0
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], '1', 'NX', 'EX', ARGV[2]) then
    news = news + 1
  end
end
if news > 0 then
  local count = redis.call('INCRBY', KEYS[1], news)
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('PUBLISH', ARGV[3], string.format(
    '{"type":"broadcast_acknowledged","broadcast_id":%s,"acknowledged":%d}',
    cjson.encode(ARGV[1]), count))
end
return news
