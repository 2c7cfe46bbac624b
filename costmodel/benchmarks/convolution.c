/* F filters of K x K over B images of C channels, with a bias. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define B 2
#define F 2
#define C 3
#define H 8
#define W 10
#define K 3

void convolution(const DATA_TYPE image[B][C][H + K - 1][W + K - 1],
                 const DATA_TYPE weights[F][C][K][K], const DATA_TYPE bias[F],
                 DATA_TYPE out[B][F][H][W]) {
  for (int n = 0; n < B; n++)
    for (int f = 0; f < F; f++)
      for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
          out[n][f][y][x] = bias[f];
          for (int c = 0; c < C; c++)
            for (int r = 0; r < K; r++)
              for (int s = 0; s < K; s++)
                out[n][f][y][x] += weights[f][c][r][s] * image[n][c][y + r][x + s];
        }
}
