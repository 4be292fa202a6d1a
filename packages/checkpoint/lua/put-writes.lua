-- Stores a task's pending writes to a checkpoint. A write that is there already stays, but a special one (an error,
-- an interrupt, a resume) is replaced. What a replaced write of another run was is kept below the new one, so that
-- discarding the run brings it back. Uses lists.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] namespace   ARGV[3] checkpoint id   ARGV[4] task id
-- ARGV[5] run id, '' for none   ARGV[6] task's path, '' for none
-- ARGV[7] generation of the elements that are named, '' for none
-- ARGV[8…] quadruples: position, '1' replaces or '0' keeps, channel, value
-- Answers 1 done · -1 stale attempt · -5 elements that are named may be gone; on a negative answer nothing was written
local fence, pending, index = KEYS[1], KEYS[5], KEYS[6]
local token, ns, id, task, run, path, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if token ~= '' and redis.call('GET', fence) ~= token then return -1 end
if not knows_elements(generation) then return -5 end

local stem = ns .. '\0' .. id .. '\0' .. task .. '\0'
for i = 8, #ARGV, 4 do
  local position, replaces, channel, value = ARGV[i], ARGV[i + 1] == '1', ARGV[i + 2], ARGV[i + 3]
  local field = stem .. position
  local old = redis.call('HGET', pending, field)
  if not old or replaces then
    local below = ''
    if old then
      local was = cmsgpack.unpack(old)
      below = was[4] == run and was[5] or old
    end
    redis.call('HSET', pending, field, cmsgpack.pack({ task, channel, value, run, below, path }))
    redis.call('ZADD', index, 0, 'w\0' .. field)
    if run ~= '' then redis.call('ZADD', index, 0, 'r\0' .. run .. '\0w\0' .. field) end
  end
end
return 1
