-- Reads a page of items in the order of their paths.
-- KEYS[1] items   KEYS[2] paths   KEYS[3] expiry
-- ARGV[1] how many expired items to remove at most   ARGV[2] lower and ARGV[3] upper bound in `paths`
-- ARGV[4] how many paths to look at   ARGV[5] how many items to pass over
-- ARGV[6] bytes of values: the page ends when it has as many
-- Answers {path to go on behind, '' at the end; how many were passed over;
--         then for each item {path, value as JSON, created, updated (ms since 1970)}}
local most, lower, upper = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local count, skip, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
sweep(most)
local page = { '', 0 }
local found = redis.call('ZRANGEBYLEX', paths, lower, upper, 'LIMIT', 0, count)
for i, path in ipairs(found) do
  if not expired(path) then
    if page[2] < skip then
      page[2] = page[2] + 1
    else
      local created, updated, _, json = unpack(cmsgpack.unpack(redis.call('HGET', items, path)))
      page[#page + 1] = { path, json, created, updated }
      bytes = bytes - #json
    end
  end
  if i == count or bytes <= 0 then
    page[1] = path
    break
  end
end
return page
