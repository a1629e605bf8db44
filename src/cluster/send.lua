-- Puts a message into a node's inbox. KEYS: 1 the inbox, a stream.
-- ARGV: 1 the channel, 2 the message, 3 how long it is kept, in ms.
-- Returns its id. The channel is told the id before it too, so that whoever listens knows whether something was missed.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', 65536, '*', 'm', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.pcall('PUBLISH', ARGV[1], (last and last[1] or '0-0') .. ' ' .. id .. ' ' .. ARGV[2])
return id
