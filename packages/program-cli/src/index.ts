/**
 * @virtnet/program-cli: the programs an operator types: virtnet, virtnet-host, virtnet-mlxconfig. Nothing is imported
 * from here; each program's entry point is the file of its name.
 *
 * @example
 *   virtnet hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024
 */
export {};
