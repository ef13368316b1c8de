# What `clawsec audit stats` counts, as fast as jq does it: one flat object, whose entries can be
# replaced where they stand. `group_by` takes 2.7 times as long, `.sources[…] += n` 65 times.
def add_to($key; $n): setpath([$key]; getpath([$key]) + $n);
reduce inputs as $r ({};
  ($r.count + ($r.settles // 0)) as $times
  | if $r.count > 0
    then add_to("totals " + $r.event + "." + $r.outcome; $r.count)
      | add_to("reasons " + $r.reason; $r.count)
    else . end
  | if $times > 0
    then (if $r.src then add_to("sources " + $r.src.ip; $times) else . end)
      | (if $r.user then add_to("users " + $r.user; $times) else . end)
      | (if $r.tool then add_to("tools " + $r.tool.name; $times) else . end)
    else . end)
| to_entries
| map({kind: (.key | split(" ")[0]), name: (.key | split(" ")[1:] | join(" ")), count: .value})
| group_by(.kind)
| map(sort_by([-.count, .name])[:10])
| add
| .[]
| [.kind, .name, .count]
| @csv
