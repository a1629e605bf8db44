-- Pipelined GETs: each write carries a batch of requests, as a client that does not wait for answers would send them.
--
--     wrk -t1 -c64 -d5s -s benches/wrk/pipeline.lua http://127.0.0.1:8080/health -- 16
--
-- The number (16 if there is none) is how many requests a batch has. wrk counts requests, not batches; its latencies are a
-- batch's.

function init(arguments)
    local count = tonumber(arguments[1]) or 16
    local batch = {}
    for index = 1, count do
        batch[index] = wrk.format()
    end
    requests = table.concat(batch)
end

function request()
    return requests
end
