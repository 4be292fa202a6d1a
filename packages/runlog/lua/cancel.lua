-- Records that a cancel was asked for, and wakes the worker. A run that no worker has picked up ends on the spot.
-- The first cancel's `keep` and reason hold; later ones change nothing.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] owner; '' asks for none   ARGV[2] keep   ARGV[3] reason   ARGV[4] now, ms since 1970
-- ARGV[5] the terminal part for a queued run, as a JSON array of one   ARGV[6] retention, ms
-- ARGV[7] live channel   ARGV[8] control channel   ARGV[9] the log's epoch from here on, if Redis may have lost writes
-- Answers {'missing'} · {'ended', status, head, final checkpoint or ''} · {'cancelled', 'cancelled', head, ''}
--         · {'requested', status}
local run = redis.call('HMGET', KEYS[1], 'status', 'head', 'attempt', 'owner', 'cancel', 'final', 'incarnation',
  'epoch')
local status = run[1]
if not status or (ARGV[1] ~= '' and run[4] ~= ARGV[1]) then return {'missing'} end
local head = tonumber(run[2])
if endings[status] then
  return {'ended', status, head, run[6] or ''}
end
if not run[5] then
  redis.call('HSET', KEYS[1], 'cancel', ARGV[2], 'cancelReason', ARGV[3], 'cancelAt', ARGV[4])
end
if run[3] == '0' then
  local epoch = renewed(KEYS[1], ARGV[7], run[7], ARGV[9]) and ARGV[9] or run[8]
  head = head + 1
  redis.call('XADD', KEYS[2], head .. '-0', 'n', 1, 'b', ARGV[5])
  redis.call('HSET', KEYS[1], 'head', head, 'status', 'cancelled', 'ended', ARGV[4], 'fence', '')
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
  redis.call('PUBLISH', ARGV[7], head .. ':1:' .. epoch .. ':e\n' .. ARGV[5])
  return {'cancelled', 'cancelled', head, ''}
end
redis.call('HSET', KEYS[1], 'status', 'cancelling')
redis.call('PUBLISH', ARGV[8], 'cancel')
return {'requested', 'cancelling'}
