/* Mean of 3 x 3 neighbours of an image of C channels: along x, then along y. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define C 3
#define H 12
#define W 14

void blur(const DATA_TYPE image[C][H][W], DATA_TYPE out[C][H - 2][W - 2]) {
  DATA_TYPE row[C][H][W - 2];
  for (int c = 0; c < C; c++)
    for (int y = 0; y < H; y++)
      for (int x = 0; x < W - 2; x++)
        row[c][y][x] = (image[c][y][x] + image[c][y][x + 1] + image[c][y][x + 2]) / 3;
  for (int c = 0; c < C; c++)
    for (int y = 0; y < H - 2; y++)
      for (int x = 0; x < W - 2; x++)
        out[c][y][x] = (row[c][y][x] + row[c][y + 1][x] + row[c][y + 2][x]) / 3;
}
