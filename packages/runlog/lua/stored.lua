-- What Redis holds of a run, and for how long.
-- KEYS[1] run hash   KEYS[2] log   KEYS[3] snapshot
-- Answers {} it has expired · {status, bytes of memory (0 where Redis does not say), ms until it expires}
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {} end
local bytes = 0
for i, samples in ipairs({0, 100, 0}) do
  local size = redis.pcall('MEMORY', 'USAGE', KEYS[i], 'SAMPLES', samples)
  if type(size) == 'number' then bytes = bytes + size end
end
return {status, bytes, redis.call('PTTL', KEYS[1])}
