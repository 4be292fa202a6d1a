-- Walks up from a checkpoint, through its parents, for what became of some channels: each until it meets a value. Uses
-- lists.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] namespace   ARGV[2] checkpoint id to start above, '' for the head   ARGV[3] how many steps at most
-- ARGV[4…] channels
-- Answers {elements of lists, as lists.lua has them, id to go on above, '' at the end; then for each step up
--         {{channel, value found, …}, {task id, channel, value, task's path or '', …} by task and position}}
local _, heads, checkpoints, blobs, pending, index = unpack(KEYS)
local ns, id, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local lists = {}
if id == '' then id = redis.call('HGET', heads, ns) or '' end
local wanted, left = {}, 0
for i = 4, #ARGV do
  wanted[ARGV[i]] = true
  left = left + 1
end

local function parentOf(packed) return packed and cmsgpack.unpack(packed)[1] or '' end

local above, steps = '', {}
local parent = parentOf(redis.call('HGET', checkpoints, ns .. '\0' .. id))
while parent ~= '' and left > 0 do
  if #steps == most then
    above = id
    break
  end
  id = parent
  local packed = redis.call('HGET', checkpoints, ns .. '\0' .. id)
  if not packed then break end

  local writes = {}
  local stem = 'w\0' .. ns .. '\0' .. id
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', index, '[' .. stem .. '\0', '(' .. stem .. '\1')) do
    local task, channel, value, _, _, path = unpack(cmsgpack.unpack(redis.call('HGET', pending, entry:sub(3))))
    if wanted[channel] then
      add_list(lists, channel, value)
      for _, each in ipairs({ task, channel, value, path or '' }) do writes[#writes + 1] = each end
    end
  end

  local values = {}
  local versions = cmsgpack.unpack(packed)[5]
  for i = 1, #versions, 2 do
    if wanted[versions[i]] then
      local value = redis.call('HGET', blobs, ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1])
      if value then
        add_list(lists, versions[i], value)
        values[#values + 1] = versions[i]
        values[#values + 1] = value
        wanted[versions[i]] = nil
        left = left - 1
      end
    end
  end
  steps[#steps + 1] = { values, writes }
  parent = parentOf(packed)
end
return { elements_of(lists, '', {}), above, unpack(steps) }
