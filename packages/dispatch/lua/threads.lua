-- A page of an owner's threads, the one that something last happened to first.
-- KEYS[1] listed   KEYS[2] shown; as in show.lua
-- ARGV[1] status, '' for any   ARGV[2] agent, '' for any   ARGV[3] the place that the last page ended at, '' begins
-- ARGV[4] how many
-- Answers {place, threadId, version that is known, birth that is known, …}
local listed, shown = KEYS[1], KEYS[2]
local stem, before, count = ARGV[1] .. '\0' .. ARGV[2], ARGV[3], ARGV[4]
local max = before == '' and '(' .. stem .. '\1' or '(' .. stem .. '\0' .. before
local answer = {}
for _, member in ipairs(redis.call('ZREVRANGEBYLEX', listed, max, '[' .. stem .. '\0', 'LIMIT', 0, count)) do
  local place, id = string.match(member, '^(.-)%z(.*)$', #stem + 2)
  local packed = redis.call('HGET', shown, id)
  local known = packed and cmsgpack.unpack(packed) or {'', ''}
  answer[#answer + 1] = place
  answer[#answer + 1] = id
  answer[#answer + 1] = tostring(known[2])
  answer[#answer + 1] = known[1]
end
return answer
