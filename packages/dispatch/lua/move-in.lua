-- Puts what move-out.lua answered under other keys, unless there is a thread already.
-- KEYS[1] thread hash   KEYS[2…] all else that a thread has
-- ARGV[1…] the dumps in the same order, '' for a key that is not there
-- Answers 1 · 0 there is a thread
local thread = KEYS[1]
if redis.call('EXISTS', thread) == 1 then return 0 end
for i, key in ipairs(KEYS) do
  local dump = ARGV[i]
  if dump ~= '' then redis.call('RESTORE', key, 0, dump, 'REPLACE') end
end
return 1
