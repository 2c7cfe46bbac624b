/* Lengths of the shortest paths between all pairs. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define N 60

void floyd_warshall(DATA_TYPE path[N][N]) {
  for (int k = 0; k < N; k++)
    for (int i = 0; i < N; i++)
      for (int j = 0; j < N; j++)
        path[i][j] =
            path[i][j] < path[i][k] + path[k][j] ? path[i][j] : path[i][k] + path[k][j];
}
