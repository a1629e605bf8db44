-- Begins a room anew whose data was lost, unless somebody has done so already.
-- KEYS: those of the room.
-- ARGV: 1 epoch, 2 change, 3 offset that the copy has seen; 4 the new epoch; 5 the name; 6 what the room is (JSON); 7 how long it lasts,
-- in ms; 8 the channel.
-- Returns the room (opened) as it is then.
local m = head()
if m and (m.epoch ~= ARGV[1] or has(m, ARGV[1], ARGV[2], ARGV[3])) then
    return opened(m)
end
make(ARGV[4], ARGV[5])
redis.call('HSET', KEYS[4], 'change', '0', 'body', ARGV[6])
last_for(ARGV[7])
redis.call('PUBLISH', ARGV[8], 'r ' .. ARGV[4])
return opened(head())
