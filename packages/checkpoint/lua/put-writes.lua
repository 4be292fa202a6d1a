-- Stores a task's pending writes to a checkpoint. A write that is there already stays, but a special one (an error,
-- an interrupt, a resume) is replaced. What a replaced write of another run was is kept below the new one, so that
-- discarding the run brings it back.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] namespace   ARGV[3] checkpoint id   ARGV[4] task id
-- ARGV[5] run id, '' for none   ARGV[6] task's path, '' for none
-- ARGV[7…] quadruples: position, '1' replaces or '0' keeps, channel, value
-- Answers 1 done · -1 stale attempt, nothing was written
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local task, run, path = ARGV[4], ARGV[5], ARGV[6]
local stem = ARGV[2] .. '\0' .. ARGV[3] .. '\0' .. task .. '\0'

for i = 7, #ARGV, 4 do
  local field = stem .. ARGV[i]
  local old = redis.call('HGET', KEYS[5], field)
  if not old or ARGV[i + 1] == '1' then
    local below = ''
    if old then
      local was = cmsgpack.unpack(old)
      below = was[4] == run and was[5] or old
    end
    redis.call('HSET', KEYS[5], field, cmsgpack.pack({ task, ARGV[i + 2], ARGV[i + 3], run, below, path }))
    redis.call('ZADD', KEYS[6], 0, 'w\0' .. field)
    if run ~= '' then redis.call('ZADD', KEYS[6], 0, 'r\0' .. run .. '\0w\0' .. field) end
  end
end
return 1
