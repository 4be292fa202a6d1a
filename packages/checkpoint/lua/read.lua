-- Reads checkpoints whole: one by its id, the head, or a page of the index from the newest down. Uses lists.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] 'one'    ARGV[2] namespace   ARGV[3] checkpoint id, '' for the head   ARGV[4] generation of the elements that
--                  are known, '' for none   ARGV[5…] pairs channel, how many of its first pages are known
-- ARGV[1] 'page'   ARGV[2] upper and ARGV[3] lower bound in the index   ARGV[4] how many at most
-- Answers {elements of lists, as lists.lua has them; then for each checkpoint {namespace, id, parent's id or '',
--         checkpoint, metadata, {channel, value, …}, {task id, channel, value, task's path or '', …} by task and
--         position}}
local _, heads, checkpoints, blobs, pending, index = unpack(KEYS)
local kind = ARGV[1]
local lists = {}

local function tuple(ns, id)
  local packed = redis.call('HGET', checkpoints, ns .. '\0' .. id)
  if not packed then return nil end
  local parent, _, checkpoint, metadata, versions = unpack(cmsgpack.unpack(packed))

  local values = {}
  for i = 1, #versions, 2 do
    local value = redis.call('HGET', blobs, ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1])
    if value then
      add_list(lists, versions[i], value)
      values[#values + 1] = versions[i]
      values[#values + 1] = value
    end
  end

  local writes = {}
  local stem = 'w\0' .. ns .. '\0' .. id
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', index, '[' .. stem .. '\0', '(' .. stem .. '\1')) do
    local task, channel, value, _, _, path = unpack(cmsgpack.unpack(redis.call('HGET', pending, entry:sub(3))))
    add_list(lists, channel, value)
    for _, each in ipairs({ task, channel, value, path or '' }) do writes[#writes + 1] = each end
  end
  return { ns, id, parent, checkpoint, metadata, values, writes }
end

local tuples, generation, known = {}, '', {}
if kind == 'one' then
  local ns, id = ARGV[2], ARGV[3]
  generation = ARGV[4]
  for i = 5, #ARGV, 2 do known[stem_of(ARGV[i])] = tonumber(ARGV[i + 1]) end
  if id == '' then id = redis.call('HGET', heads, ns) end
  tuples[1] = id and tuple(ns, id) or nil
else
  local upper, lower, count = ARGV[2], ARGV[3], ARGV[4]
  for _, entry in ipairs(redis.call('ZREVRANGEBYLEX', index, upper, lower, 'LIMIT', 0, count)) do
    tuples[#tuples + 1] = tuple(entry:match('^c%z([^%z]*)%z(.*)$'))
  end
end
return { elements_of(lists, generation, known), unpack(tuples) }
