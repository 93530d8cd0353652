# bash completion of virtnet. Made from the definition of the command line by completion-write.js; change that, not this file.
_virtnet() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' word offered=''
  for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    case $command:$word in
      *:-*) ;;
      :*) command=$word ;;
      modify:device|modify:queue) command+=" $word" ;;
    esac
  done
  case $command:$previous in
    hotplug:-i|hotplug:--ib_device) offered='' ;;
    hotplug:-m|hotplug:--mac) offered='' ;;
    hotplug:-t|hotplug:--mtu) offered='' ;;
    hotplug:-n|hotplug:--max_queues) offered='' ;;
    hotplug:-qp|hotplug:--max_queue_pairs) offered='' ;;
    hotplug:-s|hotplug:--max_queue_size) offered='' ;;
    hotplug:-u|hotplug:--sf_num) offered='' ;;
    hotplug:-f|hotplug:--features) offered='' ;;
    unplug:-p|unplug:--pf) offered='' ;;
    unplug:-u|unplug:--vuid) offered='' ;;
    query:-p|query:--pf) offered='' ;;
    query:-v|query:--vf) offered='' ;;
    query:-u|query:--vuid) offered='' ;;
    query:-q|query:--queue_id) offered='' ;;
    modify:-p|modify:--pf) offered='' ;;
    modify:-v|modify:--vf) offered='' ;;
    modify:-u|modify:--vuid) offered='' ;;
    'modify device':-m|'modify device':--mac) offered='' ;;
    'modify device':-t|'modify device':--mtu) offered='' ;;
    'modify device':-e|'modify device':--speed) offered='' ;;
    'modify device':-l|'modify device':--link) offered='' ;;
    'modify device':-s|'modify device':--state) offered='' ;;
    'modify device':-f|'modify device':--features) offered='' ;;
    'modify device':-o|'modify device':--supported_hash_types) offered='' ;;
    'modify device':-k|'modify device':--rss_max_key_size) offered='' ;;
    'modify device':-r|'modify device':--rx_mode) offered='' ;;
    'modify device':-n|'modify device':--msix_num) offered='' ;;
    'modify device':-q|'modify device':--max_queue_size) offered='' ;;
    'modify device':-qp|'modify device':--max_queue_pairs) offered='' ;;
    'modify device':-d|'modify device':--dst_port) offered='' ;;
    'modify device':-b|'modify device':--rx_dma_q_num) offered='' ;;
    'modify device':-dc|'modify device':--drop_counter) offered='enable disable' ;;
    'modify device':-pkt_cnt|'modify device':--packet_counter) offered='enable disable' ;;
    'modify device':-aarfs|'modify device':--aarfs_config) offered='enable disable' ;;
    'modify device':-dim|'modify device':--dim_config) offered='enable disable' ;;
    'modify device':-netdim|'modify device':--net_dim_config) offered='enable disable' ;;
    'modify queue':-e|'modify queue':--period_mode) offered='event cqe' ;;
    'modify queue':-n|'modify queue':--period) offered='' ;;
    'modify queue':-c|'modify queue':--max_count) offered='' ;;
    stats:-p|stats:--pf) offered='' ;;
    stats:-v|stats:--vf) offered='' ;;
    stats:-u|stats:--vuid) offered='' ;;
    stats:-q|stats:--queue_id) offered='' ;;
    health:-p|health:--pf) offered='' ;;
    health:-v|health:--vf) offered='' ;;
    health:-u|health:--vuid) offered='' ;;
    log:-l|log:--level) offered='info err debug' ;;
    validate:-f|validate:--file) offered='' ;;
    :*) offered='hotplug unplug list query modify stats health log version debug validate restart update -v --version --json -h --help' ;;
    hotplug:*) offered='-i --ib_device -m --mac -t --mtu -n --max_queues -qp --max_queue_pairs -s --max_queue_size -u --sf_num -f --features -l --legacy -h --help' ;;
    unplug:*) offered='-p --pf -u --vuid -h --help' ;;
    list:*) offered='-h --help' ;;
    query:*) offered='-a --all -p --pf -v --vf -u --vuid --dbg_stats -b --brief --latency_stats -q --queue_id --stats_clear -h --help' ;;
    modify:*) offered='device queue -a --all -p --pf -v --vf -u --vuid -h --help' ;;
    'modify device':*) offered='-m --mac -t --mtu -e --speed -l --link -s --state -f --features -o --supported_hash_types -k --rss_max_key_size -r --rx_mode -n --msix_num -q --max_queue_size -qp --max_queue_pairs -d --dst_port -b --rx_dma_q_num -dc --drop_counter -pkt_cnt --packet_counter -aarfs --aarfs_config -dim --dim_config -netdim --net_dim_config -h --help' ;;
    'modify queue':*) offered='-e --period_mode -n --period -c --max_count -h --help' ;;
    stats:*) offered='-p --pf -v --vf -u --vuid -q --queue_id -h --help' ;;
    health:*) offered='show -a --all -p --pf -v --vf -u --vuid -h --help' ;;
    log:*) offered='-l --level -h --help' ;;
    version:*) offered='-h --help' ;;
    debug:*) offered='-h --help' ;;
    validate:*) offered='-f --file -h --help' ;;
    restart:*) offered='-h --help' ;;
    update:*) offered='-s --start -t --status -h --help' ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
}
complete -o bashdefault -o default -F _virtnet virtnet
