-- Make a revision of the announcements current, unless a newer one is.
--
-- KEYS  1 current_broadcast  string: the active announcement (JSON), for all to read
--       2 `edition`          hash: revision, id, `edition`; the number, the id and the JSON of
--                            the current revision, by the names that version 0.1 used
-- ARGV  1 number  2 id of the announcement  3 revision (JSON)
--       4 current_broadcast, or "" if nothing is active
--       5 channel  6 message to publish there
--       7 the greatest allowed number  8 an unreadable revision to replace, or ""
--
-- Of two revisions with the same number, the one with the greater id is newer. The current one is
-- written again, as somebody may have deleted the key. A stored revision counts only if it is
-- readable, matches its fields, and its number is allowed. Returns the current revision.

expect(KEYS[2], 'hash')

local held = redis.call('HMGET', KEYS[2], 'revision', 'id', 'edition')
local revision = tonumber(ARGV[1])

local function is_valid()
  local ok, edition = pcall(cjson.decode, held[3])
  return ok and held[3] ~= ARGV[8] and type(edition) == 'table'
    and type(edition.announcement) == 'table' and edition.announcement.id == held[2]
    and type(edition.revision) == 'number' and edition.revision == tonumber(held[1])
    and edition.revision <= tonumber(ARGV[7])
end

if not is_valid() then
  held = {}
else
  local other = tonumber(held[1])
  if other > revision or (other == revision and held[2] > ARGV[2]) then
    return held[3]
  end
end

if ARGV[4] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[4])
end
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'revision', ARGV[1], 'id', ARGV[2], 'edition', ARGV[3])
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return ARGV[3]
