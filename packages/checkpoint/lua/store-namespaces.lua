-- Reads a page of the namespaces that have items, in order. It leaps from each namespace to the next: what it costs is
-- the number of namespaces, not that of items.
-- KEYS[1] items   KEYS[2] paths   KEYS[3] expiry
-- ARGV[1] how many expired items to remove at most   ARGV[2] lower and ARGV[3] upper bound in `paths`
-- ARGV[4] how many labels of a namespace count, '0' for all   ARGV[5] how many leaps at most
-- Answers {lower bound to go on from, '' at the end; then the namespaces, a NUL behind each label}
local most, lower, upper = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local depth, leaps = tonumber(ARGV[4]), tonumber(ARGV[5])
sweep(most)
local page = { '' }
for _ = 1, leaps do
  local path = redis.call('ZRANGEBYLEX', paths, lower, upper, 'LIMIT', 0, 1)[1]
  if not path then return page end
  if expired(path) then
    lower = '(' .. path
  else
    local labels = path:find('\0\0', 1, true)
    local stop, seen = 0, 0
    repeat
      stop = path:find('\0', stop + 1, true)
      seen = seen + 1
    until stop == labels or seen == depth
    page[#page + 1] = path:sub(1, stop)
    -- Behind all that is below these labels where deeper ones do not count, else behind the namespace's own items.
    lower = '[' .. path:sub(1, seen == depth and stop - 1 or stop) .. '\1'
  end
end
page[1] = lower
return page
