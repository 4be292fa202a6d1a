-- Takes a thread's checkpoints out as they are at one moment, for restore.lua; with a checkpoint's id also what it takes
-- to say which of them lead to that one.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] id of a checkpoint of the root, '' for none
-- Answers {{dump of KEYS[2], …, dump of KEYS[6]}, line, runs, below, heads}: a dump is null for a key that is not there;
--         line {{id, run, metadata}, …}: the checkpoint and its ancestors, empty if there is no such checkpoint;
--         runs {run, …}: those of the root's checkpoints that are not on the line, some more than once;
--         below {{namespace, id, parent's id or '', run, metadata}, …}: the checkpoints of all other namespaces;
--         heads {namespace, id, …}
local _, head, checkpoints, blobs, writes, index = unpack(KEYS)
local id = ARGV[1]

local dumps = {}
for i, key in ipairs({ head, checkpoints, blobs, writes, index }) do dumps[i] = redis.call('DUMP', key) end
if id == '' then return { dumps, {}, {}, {}, {} } end

local line, on_line = {}, {}
while id ~= '' and not on_line[id] do
  local packed = redis.call('HGET', checkpoints, '\0' .. id)
  if not packed then break end
  local parent, run, _, metadata = unpack(cmsgpack.unpack(packed))
  line[#line + 1] = { id, run, metadata }
  on_line[id] = true
  id = parent
end

local runs, below = {}, {}
for _, entry in ipairs(redis.call('ZRANGEBYLEX', index, '[c\0', '(c\1')) do
  local ns, each = entry:match('^c%z([^%z]*)%z(.*)$')
  if ns ~= '' or not on_line[each] then
    local parent, run, _, metadata = unpack(cmsgpack.unpack(redis.call('HGET', checkpoints, entry:sub(3))))
    if ns == '' then runs[#runs + 1] = run else below[#below + 1] = { ns, each, parent, run, metadata } end
  end
end
return { dumps, line, runs, below, redis.call('HGETALL', head) }
