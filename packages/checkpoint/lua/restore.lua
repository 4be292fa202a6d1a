-- Puts what dump.lua answered under another thread's keys, whole or in part. Uses lists.lua and arguments.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] generation of the copy's list elements: from here on its numbers are its own
-- ARGV[3…7] the dumps, '' for a key that is not there
-- ARGV[8] '1': only a part, and then   ARGV[9…] three lists, each with its length before it:
--         the heads (namespace, id, …); the runs whose writes stay out; the checkpoints that stay, as their fields
-- Answers 1 done, also when it was by this very call · -1 stale attempt · -4 the thread has checkpoints already;
-- on a negative answer nothing was written
local fence, head, checkpoints, blobs, writes, index = unpack(KEYS)
local token, generation, is_part = ARGV[1], ARGV[2], ARGV[8] == '1'
if token ~= '' and redis.call('GET', fence) ~= token then return -1 end
if redis.call('EXISTS', head, checkpoints, blobs, writes, index) > 0 then
  -- The call is sent again because its answer was lost: nobody else has its generation.
  return redis.call('HGET', blobs, '#') == generation and 1 or -4
end
for i = 2, 6 do
  local key, dump = KEYS[i], ARGV[i + 1]
  if dump ~= '' then redis.call('RESTORE', key, 0, dump) end
end
redis.call('HSET', blobs, '#', generation)
if not is_part then return 1 end

local next_list, next_set = lists_from(9)
local heads, others, stays = next_list(), next_set(), next_set()
local function entries(stem) return redis.call('ZRANGEBYLEX', index, '[' .. stem .. '\0', '(' .. stem .. '\1') end

redis.call('DEL', head)
for i = 1, #heads, 2 do redis.call('HSET', head, heads[i], heads[i + 1]) end

-- The fields of values that checkpoints have, and the lists that stay.
local used, kept = {}, {}
for _, entry in ipairs(entries('c')) do
  local field = entry:sub(3)
  if stays[field] then
    local ns = field:match('^[^%z]*')
    local versions = cmsgpack.unpack(redis.call('HGET', checkpoints, field))[5]
    for i = 1, #versions, 2 do used[ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1]] = true end
  else
    redis.call('HDEL', checkpoints, field)
    redis.call('ZREM', index, entry)
  end
end

-- A write, and what it replaced, without those of other branches' runs; '' where none is left.
local function own(packed)
  if packed == '' then return '' end
  local write = cmsgpack.unpack(packed)
  local below = own(write[5])
  if others[write[4]] then return below end
  add_list(kept, write[2], write[3])
  if below == write[5] then return packed end
  write[5] = below
  return cmsgpack.pack(write)
end
for _, entry in ipairs(entries('w')) do
  local field = entry:sub(3)
  local left = stays[field:match('^[^%z]*%z[^%z]*')] and own(redis.call('HGET', writes, field)) or ''
  if left ~= '' then
    redis.call('HSET', writes, field, left)
  else
    redis.call('HDEL', writes, field)
    redis.call('ZREM', index, entry)
  end
end
for _, entry in ipairs(entries('r')) do
  local run, written = entry:match('^r%z([^%z]*)%z(.*)$')
  if others[run] or not redis.call('ZSCORE', index, written) then redis.call('ZREM', index, entry) end
end

-- What is left of the values; then of the elements of each list, whatever used them.
local all, fields = {}, redis.call('HKEYS', blobs)
for _, field in ipairs(fields) do
  if field:match('^\1%z[^%z]*%z#$') then
    all[field] = { { 1, tonumber(redis.call('HGET', blobs, field)) } }
  elseif used[field] then
    add_list(kept, field:match('^[^%z]*%z([^%z]*)%z'), redis.call('HGET', blobs, field))
  elseif field ~= '#' and field:sub(1, 2) ~= '\1\0' then
    redis.call('HDEL', blobs, field)
  end
end
delete_elements(all, kept)
for _, field in ipairs(fields) do
  local stem = field:match('^(\1%z[^%z]*%z#)')
  if stem and not kept[stem] then redis.call('HDEL', blobs, field) end
end
return 1
