-- Records that a cancel was asked for, and wakes the worker. A run that no worker has picked up ends on the spot.
-- The first cancel's `keep` and reason hold; later ones change nothing.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] owner; '' asks for none   ARGV[2] keep   ARGV[3] reason
-- ARGV[4] the terminal part for a queued run, as a JSON array of one   ARGV[5] retention, ms
-- ARGV[6] live channel   ARGV[7] control channel   ARGV[8] the log's epoch from here on, if Redis may have lost writes
-- Answers {'missing'} · {'ended', status, head, final checkpoint or ''} · {'cancelled', 'cancelled', head, ''}
--         · {'requested', status}
local key, log = KEYS[1], KEYS[2]
local owner, keep, reason, terminal, retention = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local live, control, new_epoch = ARGV[6], ARGV[7], ARGV[8]
local run = redis.call('HMGET', key, 'status', 'head', 'attempt', 'owner', 'cancel', 'final', 'incarnation', 'epoch')
local status = run[1]
if not status or (owner ~= '' and run[4] ~= owner) then return {'missing'} end
local head = tonumber(run[2])
if endings[status] then return {'ended', status, head, run[6] or ''} end
-- A write that frees comes first: where Redis is full it lets a script write on, and who stops a run is to get through.
redis.call('HDEL', key, '')
-- Asked once: Redis' clock goes on while a script runs.
local at = now()
if not run[5] then redis.call('HSET', key, 'cancel', keep, 'cancelReason', reason, 'cancelAt', at) end
if run[3] == '0' then
  local epoch = renewed(key, live, run[7], new_epoch) and new_epoch or run[8]
  head = head + 1
  redis.call('XADD', log, head .. '-0', 'n', 1, 'b', terminal)
  redis.call('HSET', key, 'head', head, 'status', 'cancelled', 'ended', at, 'fence', '')
  redis.call('PEXPIRE', key, retention)
  redis.call('PEXPIRE', log, retention)
  redis.call('PUBLISH', live, head .. ':1:' .. epoch .. ':e\n' .. terminal)
  return {'cancelled', 'cancelled', head, ''}
end
redis.call('HSET', key, 'status', 'cancelling')
redis.call('PUBLISH', control, 'cancel')
return {'requested', 'cancelling'}
