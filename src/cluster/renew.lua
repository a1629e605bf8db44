-- Begins a room anew whose data was lost, unless somebody has done so already.
-- KEYS: those of the room.
-- ARGV: 1 epoch, 2 change, 3 offset that the copy has seen; 4 change, 5 offset that its node knows of; 6 the new epoch; 7 the name; 8 what
-- the room is (JSON); 9 how long it lasts, in ms; 10 the channel; 11 the line; from 12 on the last messages that the copy has, in order, up to
-- the offset that it has seen: offset, time, message. With nothing for 8 the room goes on as it is here, under the new epoch.
-- Returns the room (opened) as it is then. Its messages keep their offsets; those that are here and come after what the copy has seen
-- follow them, at most 256.
local m = head()
if m and (m.epoch ~= ARGV[1] or (m.line == ARGV[11] and has(m, ARGV[1], ARGV[4], ARGV[5]))) then
    return opened(m, ARGV[11])
end
-- Somebody who was there has gone on with it although it is doubtful: what has come since belongs to it.
if m and has(m, ARGV[1], ARGV[4], ARGV[5])
    and (m.change > tonumber(ARGV[4]) or m.offset > tonumber(ARGV[5])) then
    return opened(m, ARGV[11])
end
if ARGV[8] == '' then
    if not m then
        return false
    end
    redis.call('HSET', KEYS[1], 'epoch', ARGV[6], 'line', ARGV[11])
    redis.pcall('PUBLISH', ARGV[10], 'r ' .. ARGV[6])
    return opened(head(), ARGV[11])
end
-- What the copy has not seen and is here: others have said it since the loss, or the copy had not come that far.
local seen, last = tonumber(ARGV[3]), m and m.time or 0
local offset = math.max(seen, m and m.offset or 0)
local more = redis.call('XREVRANGE', KEYS[2], '+', '(' .. ARGV[3] .. '-0', 'COUNT', 256)
make(ARGV[6], ARGV[7], ARGV[11])
if offset == seen or (#more > 0 and more[#more][1] == text(seen + 1) .. '-0') then
    for i = 12, #ARGV, 3 do
        redis.call('XADD', KEYS[2], ARGV[i] .. '-0', 't', ARGV[i + 1], 'g', '0', 'b', ARGV[i + 2])
        last = math.max(last, tonumber(ARGV[i + 1]))
    end
end
for i = #more, 1, -1 do
    local id, fields = more[i][1], more[i][2]
    redis.call('XADD', KEYS[2], id, 't', fields[2], 'g', '0', 'b', fields[6])
end
redis.call('HSET', KEYS[1], 'offset', text(offset), 'time', text(math.max(now_ms(), last)))
redis.call('HSET', KEYS[4], 'change', '0', 'body', ARGV[8])
last_for(ARGV[9])
redis.pcall('PUBLISH', ARGV[10], 'r ' .. ARGV[6])
return opened(head(), ARGV[11])
