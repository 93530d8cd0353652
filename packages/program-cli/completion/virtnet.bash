# bash completion of virtnet. Made from the definition of the command line by completion-write.js; change that, not this file.
_virtnet() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' word offered=''
  for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    case $word in -*) ;; *) command=$word; break ;; esac
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
    health:-p|health:--pf) offered='' ;;
    health:-v|health:--vf) offered='' ;;
    health:-u|health:--vuid) offered='' ;;
    log:-l|log:--level) offered='info err debug' ;;
    validate:-f|validate:--file) offered='' ;;
    :*) offered='hotplug unplug list query health log version validate -v --version --json -h --help' ;;
    hotplug:*) offered='-i --ib_device -m --mac -t --mtu -n --max_queues -qp --max_queue_pairs -s --max_queue_size -u --sf_num -f --features -l --legacy -h --help' ;;
    unplug:*) offered='-p --pf -u --vuid -h --help' ;;
    list:*) offered='-h --help' ;;
    query:*) offered='-a --all -p --pf -v --vf -u --vuid --dbg_stats -b --brief --latency_stats -q --queue_id --stats_clear -h --help' ;;
    health:*) offered='show -a --all -p --pf -v --vf -u --vuid -h --help' ;;
    log:*) offered='-l --level -h --help' ;;
    version:*) offered='-h --help' ;;
    validate:*) offered='-f --file -h --help' ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
}
complete -F _virtnet virtnet
