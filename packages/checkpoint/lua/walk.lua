-- Walks up from a checkpoint, through its parents, for what became of some channels: each until it meets a value.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] namespace   ARGV[2] checkpoint id to start above, '' for the head   ARGV[3] how many steps at most
-- ARGV[4…] channels
-- Answers {id to go on above, '' at the end; then for each step up {{channel, value found, …},
--         {task id, channel, value, task's path or '', …} by task and position}}
local ns, id = ARGV[1], ARGV[2]
if id == '' then id = redis.call('HGET', KEYS[2], ns) or '' end
local wanted, left = {}, 0
for i = 4, #ARGV do
  wanted[ARGV[i]] = true
  left = left + 1
end

local function parentOf(packed) return packed and cmsgpack.unpack(packed)[1] or '' end

local answer = { '' }
local parent = parentOf(redis.call('HGET', KEYS[3], ns .. '\0' .. id))
while parent ~= '' and left > 0 do
  if #answer > tonumber(ARGV[3]) then
    answer[1] = id
    break
  end
  id = parent
  local packed = redis.call('HGET', KEYS[3], ns .. '\0' .. id)
  if not packed then break end

  local writes = {}
  local stem = 'w\0' .. ns .. '\0' .. id
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[6], '[' .. stem .. '\0', '(' .. stem .. '\1')) do
    local write = cmsgpack.unpack(redis.call('HGET', KEYS[5], entry:sub(3)))
    if wanted[write[2]] then
      for i = 1, 3 do writes[#writes + 1] = write[i] end
      writes[#writes + 1] = write[6] or ''
    end
  end

  local values = {}
  local versions = cmsgpack.unpack(packed)[5]
  for i = 1, #versions, 2 do
    if wanted[versions[i]] then
      local value = redis.call('HGET', KEYS[4], ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1])
      if value then
        values[#values + 1] = versions[i]
        values[#values + 1] = value
        wanted[versions[i]] = nil
        left = left - 1
      end
    end
  end
  answer[#answer + 1] = { values, writes }
  parent = parentOf(packed)
end
return answer
