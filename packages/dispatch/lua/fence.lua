-- Gives an attempt, and no other, the right to write the thread's checkpoints. Tells that it begins, once. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- KEYS[7] fence: "<runId>:<fence>"
-- ARGV[4] runId   ARGV[5] the attempt's fence   ARGV[6] the run as JSON, '' tells nothing
-- Answers {} a later attempt has it, or the run is not the first in line · {1, state or {} where nothing was told}
local holder = KEYS[7]
local run, fence, json = ARGV[4], ARGV[5], ARGV[6]
if redis.call('LINDEX', line, 0) ~= run then return {} end
local held = redis.call('GET', holder)
local own = run .. ':'
if held and string.sub(held, 1, #own) == own and tonumber(string.sub(held, #own + 1)) > tonumber(fence) then return {} end
redis.call('SET', holder, own .. fence)
if json == '' or held == own .. fence or not is_there() then return {1, {}} end
complete()
touch()
tell('run', ',"run":' .. numbered(run, json), true)
return {1, state()}
