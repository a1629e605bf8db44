-- Tells where a room is, and lets it last. KEYS: those of the room. ARGV: 1 how long it lasts, in ms.
-- Returns {epoch, change, offset, line}, each nil where there is no such room: as HMGET does, which is asked most of the time.
last_for(ARGV[1])
return redis.call('HMGET', KEYS[1], 'epoch', 'change', 'offset', 'line')
