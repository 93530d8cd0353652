/**
 * Commands of the guide and the form of what it shows for them, as facts: the line, the command as typed, the keys of
 * the line of parameters, and each key of the answer in order with its kind.
 *
 * Kinds: N number; D decimal text; H hexadecimal text; M MAC address; T other text; O object; A array. The keys of
 * single bits are left out.
 */
export interface GuideExample {
  /** Line of the guide. */
  readonly at: number;
  readonly command: string;
  /** The parameters it shows, without those that name the device; null: none. */
  readonly parameters: string | null;
  readonly shape: string;
}

export const GUIDE_EXAMPLES: readonly GuideExample[] = [
  {
    at: 302,
    command: 'virtnet hotplug -i mlx5_0 -f 0x0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024',
    parameters: null,
    shape: `
bdf T
vuid T
id N
transitional N
sf_rep_net_device T
mac M
errno N
errstr T
`,
  },
  {
    at: 580,
    command: 'virtnet hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -qp 1 -s 1024',
    parameters: null,
    shape: `
bdf T
vuid T
id N
transitional N
sf_rep_net_device T
mac M
errno N
errstr T
`,
  },
  {
    at: 748,
    command: 'virtnet list',
    parameters: null,
    shape: `
controller O
controller.emulation_manager T
controller.max_hotplug_devices D
controller.max_virt_net_devices D
controller.max_virt_queues D
controller.max_tunnel_descriptors D
controller.supported_features O
controller.supported_features.value H
controller.supported_virt_queue_types O
controller.supported_virt_queue_types.value H
controller.supported_event_modes O
controller.supported_event_modes.value H
devices A
devices[].pf_id N
devices[].function_type T
devices[].transitional N
devices[].vuid T
devices[].pci_bdf T
devices[].pci_vhca_id H
devices[].pci_max_vfs D
devices[].enabled_vfs D
devices[].msix_num_pool_size N
devices[].min_msix_num N
devices[].max_msix_num N
devices[].min_num_of_qp N
devices[].max_num_of_qp N
devices[].qp_pool_size N
devices[].num_msix D
devices[].num_queues D
devices[].enabled_queues D
devices[].max_queue_size D
devices[].msix_config_vector H
devices[].mac M
devices[].link_status D
devices[].max_queue_pairs D
devices[].mtu D
devices[].speed D
devices[].rss_max_key_size D
devices[].supported_hash_types H
devices[].ctrl_mac M
devices[].ctrl_mq D
devices[].sf_num N
devices[].sf_parent_device T
devices[].sf_parent_device_pci_addr T
devices[].sf_rep_net_device T
devices[].sf_rep_net_ifindex N
devices[].sf_rdma_device T
devices[].sf_cross_mkey H
devices[].sf_vhca_id H
devices[].sf_rqt_num H
devices[].aarfs T
devices[].dim T
`,
  },
  {
    at: 915,
    command: 'virtnet query -p 0',
    parameters: null,
    shape: `
devices A
devices[].pf_id N
devices[].function_type T
devices[].transitional N
devices[].vuid T
devices[].pci_bdf T
devices[].pci_vhca_id H
devices[].pci_max_vfs D
devices[].enabled_vfs D
devices[].pci_dev_id H
devices[].pci_vendor_id H
devices[].pci_class_code H
devices[].pci_subsys_id H
devices[].pci_subsys_vendor_id H
devices[].pci_revision_id D
devices[].device_feature O
devices[].device_feature.value H
devices[].driver_feature O
devices[].driver_feature.value H
devices[].status O
devices[].status.value H
devices[].reset D
devices[].enabled D
devices[].num_msix D
devices[].num_queues D
devices[].enabled_queues D
devices[].max_queue_size D
devices[].msix_config_vector H
devices[].mac M
devices[].link_status D
devices[].max_queue_pairs D
devices[].mtu D
devices[].speed D
devices[].rss_max_key_size D
devices[].supported_hash_types H
devices[].ctrl_mac M
devices[].ctrl_mq D
devices[].sf_num N
devices[].sf_parent_device T
devices[].sf_parent_device_pci_addr T
devices[].sf_rep_net_device T
devices[].sf_rep_net_ifindex N
devices[].sf_rdma_device T
devices[].sf_cross_mkey H
devices[].sf_vhca_id H
devices[].sf_rqt_num H
devices[].aarfs T
devices[].dim T
devices[].enabled-queues-info A
devices[].enabled-queues-info[].index D
devices[].enabled-queues-info[].size D
devices[].enabled-queues-info[].msix_vector H
devices[].enabled-queues-info[].enable D
devices[].enabled-queues-info[].notify_offset D
devices[].enabled-queues-info[].descriptor_address H
devices[].enabled-queues-info[].driver_address H
devices[].enabled-queues-info[].device_address H
devices[].enabled-queues-info[].received_desc D
devices[].enabled-queues-info[].completed_desc D
devices[].enabled-queues-info[].bad_desc_errors D
devices[].enabled-queues-info[].error_cqes D
devices[].enabled-queues-info[].exceed_max_chain D
devices[].enabled-queues-info[].invalid_buffer D
devices[].enabled-queues-info[].batch_number D
devices[].enabled-queues-info[].dma_q_used_number D
devices[].enabled-queues-info[].handler_schd_number D
devices[].enabled-queues-info[].aux_handler_schd_number D
devices[].enabled-queues-info[].max_post_desc_number D
devices[].enabled-queues-info[].total_bytes D
devices[].enabled-queues-info[].rq_cq_max_count D
devices[].enabled-queues-info[].rq_cq_period D
devices[].enabled-queues-info[].rq_cq_period_mode D
`,
  },
  {
    at: 1104,
    command: 'virtnet stats -p 0 -q 0',
    parameters: "{'pf': '0x0', 'queue_id': '0x0'}",
    shape: `
device O
device.pf_id N
device.packet_counters T
device.queues-stats A
device.queues-stats[].VQ Index N
device.queues-stats[].rx_64_or_less_octet_packets N
device.queues-stats[].rx_65_to_127_octet_packets N
device.queues-stats[].rx_128_to_255_octet_packets N
device.queues-stats[].rx_256_to_511_octet_packets N
device.queues-stats[].rx_512_to_1023_octet_packets N
device.queues-stats[].rx_1024_to_1522_octet_packets N
device.queues-stats[].rx_1523_to_2047_octet_packets N
device.queues-stats[].rx_2048_to_4095_octet_packets N
device.queues-stats[].rx_4096_to_8191_octet_packets N
device.queues-stats[].rx_8192_to_9022_octet_packets N
device.queues-stats[].received_desc D
device.queues-stats[].completed_desc D
device.queues-stats[].bad_desc_errors D
device.queues-stats[].error_cqes D
device.queues-stats[].exceed_max_chain D
device.queues-stats[].invalid_buffer D
device.queues-stats[].batch_number D
device.queues-stats[].dma_q_used_number D
device.queues-stats[].handler_schd_number D
device.queues-stats[].aux_handler_schd_number D
device.queues-stats[].max_post_desc_number D
device.queues-stats[].total_bytes D
device.queues-stats[].err_handler_schd_num D
device.queues-stats[].rq_cq_max_count D
device.queues-stats[].rq_cq_period D
device.queues-stats[].rq_cq_period_mode D
`,
  },
  {
    at: 1304,
    command: 'virtnet modify -p 0 device -l 0',
    parameters: "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'link': '0x0'}",
    shape: `
errno N
errstr T
`,
  },
  {
    at: 1330,
    command: 'virtnet log -l info',
    parameters: "{'level': 'info'}",
    shape: `
T
`,
  },
  {
    at: 1378,
    command: 'virtnet version',
    parameters: null,
    shape: `
[0].Original Controller T
[1].Destination Controller T
`,
  },
  {
    at: 1506,
    command: 'virtnet health -p 0 show',
    parameters: "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0'}",
    shape: `
pf_id N
type T
vuid T
dev_status O
dev_status.value H
health_status T
health_recover_counter N
dev_health_details O
dev_health_details.control_plane_errors O
dev_health_details.control_plane_errors.sf_rqt_update_err N
dev_health_details.control_plane_errors.sf_drop_create_err N
dev_health_details.control_plane_errors.sf_tir_create_err N
dev_health_details.control_plane_errors.steer_rx_domain_err N
dev_health_details.control_plane_errors.steer_rx_table_err N
dev_health_details.control_plane_errors.sf_flows_apply_err N
dev_health_details.control_plane_errors.aarfs_flow_init_err N
dev_health_details.control_plane_errors.vlan_flow_init_err N
dev_health_details.control_plane_errors.drop_cnt_config_err N
dev_health_details.data_plane_errors O
dev_health_details.data_plane_errors.sq_stall N
dev_health_details.data_plane_errors.dma_q_stall N
dev_health_details.data_plane_errors.spurious_db_invoke N
dev_health_details.data_plane_errors.aux_not_invoked N
dev_health_details.data_plane_errors.dma_q_errors N
dev_health_details.data_plane_errors.host_read_errors N
`,
  },
  {
    at: 623,
    command: 'virtnet unplug -p 0',
    parameters: "{'id': '0x1'}",
    shape: `
errno N
errstr T
`,
  },
];

/** Lines a shell runs, and the text the guide looks for with them. */
export const GUIDE_RECIPES: readonly {
  readonly at: number;
  readonly line: string;
  readonly finds: string;
}[] = [
  { at: 1921, line: 'virtnet query -p 0 | grep num_desc_drop_pkts', finds: 'num_desc_drop_pkts' },
  { at: 2008, line: 'virtnet query -p 0 -b | grep -i dim', finds: 'dim' },
  { at: 2037, line: 'virtnet query -p 0 --dbg_stats | grep jumbo_mtu', finds: 'jumbo_mtu' },
  { at: 2077, line: 'virtnet query -p 0 | grep sf_rep_net_device', finds: 'sf_rep_net_device' },
  { at: 2247, line: 'virtnet query -p 0 -b | grep -i num_', finds: 'num_' },
  {
    at: 2342,
    line: 'virtnet list | grep -i \'"pf_id": 0\' -A 8 | grep -i msix_num_pool_size',
    finds: 'msix_num_pool_size',
  },
  {
    at: 2347,
    line: 'virtnet list | grep -i \'"pf_id": 0\' -A 10 | grep -i max_msix_num',
    finds: 'max_msix_num',
  },
  {
    at: 2348,
    line: 'virtnet list | grep -i \'"pf_id": 0\' -A 10 | grep -i min_msix_num',
    finds: 'min_msix_num',
  },
  { at: 2352, line: 'virtnet query -p 0 | grep num_msix', finds: 'num_msix' },

  {
    at: 2374,
    line: 'virtnet list | grep -i \'"pf_id": 0\' -A 13 | grep -i qp_pool_size',
    finds: 'qp_pool_size',
  },
  {
    at: 2379,
    line: 'virtnet list | grep -i \'"pf_id": 0\' -A 12 | grep -i max_num_of_qp',
    finds: 'max_num_of_qp',
  },
  {
    at: 2380,
    line: 'virtnet list | grep -i \'"pf_id": 0\' -A 12 | grep -i min_num_of_qp',
    finds: 'min_num_of_qp',
  },
  { at: 2384, line: 'virtnet query -p 0 | grep max_queue_pairs', finds: 'max_queue_pairs' },
];
