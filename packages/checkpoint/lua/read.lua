-- Reads checkpoints whole: one by its id, the head, or a page of the index from the newest down.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] 'one'    ARGV[2] namespace   ARGV[3] checkpoint id, '' for the head
-- ARGV[1] 'page'   ARGV[2] upper and ARGV[3] lower bound in the index   ARGV[4] how many at most
-- Answers an array of {namespace, id, parent's id or '', checkpoint, metadata, {channel, value, …},
--         {task id, channel, value, task's path or '', …} by task and position}
local function tuple(ns, id)
  local packed = redis.call('HGET', KEYS[3], ns .. '\0' .. id)
  if not packed then return nil end
  local parent, _, checkpoint, metadata, versions = unpack(cmsgpack.unpack(packed))

  local values = {}
  for i = 1, #versions, 2 do
    local value = redis.call('HGET', KEYS[4], ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1])
    if value then
      values[#values + 1] = versions[i]
      values[#values + 1] = value
    end
  end

  local writes = {}
  local stem = 'w\0' .. ns .. '\0' .. id
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[6], '[' .. stem .. '\0', '(' .. stem .. '\1')) do
    local write = cmsgpack.unpack(redis.call('HGET', KEYS[5], entry:sub(3)))
    for i = 1, 3 do writes[#writes + 1] = write[i] end
    writes[#writes + 1] = write[6] or ''
  end
  return { ns, id, parent, checkpoint, metadata, values, writes }
end

if ARGV[1] == 'one' then
  local id = ARGV[3]
  if id == '' then id = redis.call('HGET', KEYS[2], ARGV[2]) end
  return { id and tuple(ARGV[2], id) }
end

local page = {}
for _, entry in ipairs(redis.call('ZREVRANGEBYLEX', KEYS[6], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])) do
  local ns, id = entry:match('^c%z([^%z]*)%z(.*)$')
  page[#page + 1] = tuple(ns, id)
end
return page
